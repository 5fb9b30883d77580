"""One process or many, with copies of the model, FSDP2 or DeepSpeed.

All other packages use this one for what processes share.
"""
