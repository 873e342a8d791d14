"""Captions and prompts: cleaning, token ids, embeddings."""
