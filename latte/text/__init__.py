"""Captions and prompts: cleaning, token ids and embeddings."""
