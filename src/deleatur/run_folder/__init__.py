"""The run folder: `schema` says what its files hold and reads them without torch, `writer` makes them."""
