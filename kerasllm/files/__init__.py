"""Files: written whole or not at all, locked, and read and written as JSON and safetensors."""
