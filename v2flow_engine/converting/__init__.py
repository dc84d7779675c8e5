"""LLM checkpoints of others -> the project's llm/ folders, and one architecture into the other."""
