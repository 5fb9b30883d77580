"""From rows of any source to batches of tokens: readers, benchmarks, chat templates. Nothing here knows a model."""
