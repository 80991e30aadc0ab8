"""BERT: config, backbone, task models, and their names in Hugging Face's format."""
