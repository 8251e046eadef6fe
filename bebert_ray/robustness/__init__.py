"""How much worse finished models become where texts, embeddings or stored bits are disturbed."""
