"""Retrieval: exact search by vectors, BM25, fusion of result lists, indexes on the disk, and figures."""
