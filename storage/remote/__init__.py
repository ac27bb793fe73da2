"""Reading a store that lies elsewhere: its documents are mirrored here, its objects come when they are asked for."""
