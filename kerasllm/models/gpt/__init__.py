"""GPT: config, backbone, task model, and their names in Hugging Face's format."""
