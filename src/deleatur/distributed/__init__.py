"""One process or many, with copies of the model, FSDP2 or DeepSpeed.

What processes share goes through here. Belongs elsewhere: what is trained or evaluated.
"""
