"""A server for trained models: OpenAI's API, paths for the other tasks, and a page to try them.

It needs `pip install 'kerasllm[serve]'`.
"""
