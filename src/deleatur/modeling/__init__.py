"""Models: loading, the forward pass and what makes it fast and small, generation, the start model's numbers.

Only `token_model` runs the network and shifts by one. Kernels usable alone are `chunked_nll.linear_nll` and
`packed_attention.packed_attention`. Belongs elsewhere: losses, importances, and how rows become tokens (`data`).
"""
