"""Files: atomic writing, locks, and reading and writing of JSON and safetensors."""
