"""What a store is, for people and for catalogues, made from its own documents."""
