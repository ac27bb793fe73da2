"""Moving a store, or a part of it, from one place to another."""
