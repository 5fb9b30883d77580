"""One process or many, with copies of the model, FSDP2 or DeepSpeed. All else asks here what the processes share."""
