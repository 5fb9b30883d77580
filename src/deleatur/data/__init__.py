"""From rows of any source to batches of tokens: readers, benchmarks, chat templates.

`chat_template` applies chat templates, `encode` makes tokens of rows, and each benchmark has a file of its own. Bad rows are
refused here. Belongs elsewhere: anything that needs a model's weights.
"""
