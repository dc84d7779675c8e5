"""The bodies and answers of OpenAI's images API and its neighbours, as pydantic models. Nothing here does anything."""
