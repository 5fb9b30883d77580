"""The run folder: `file_types` says what its files hold, `schema` reads and writes them without torch, `writer` makes them.

| file | written by | when |
|---|---|---|
| `run.yaml` | `commands.unlearn` | first: every setting, resolved |
| `data.json` | `writer` | once the rows are read: their hashes, with which a resumed run is compared |
| `retain.jsonl` | `commands.retain_rows` | before training, where no retain rows were given |
| `records/before.jsonl` | `commands.evaluator` | before training |
| `steps.jsonl` | `commands.unlearn` | a line after each step; a resumed run (`training.train`) cuts it at its checkpoint |
| `checkpoints/` | `training.checkpoint` | every `keep.every` steps; removed at the end |
| `records/after.jsonl` | `commands.evaluator` | after training |
| `model/`, `scorer.safetensors` | `writer` | after training |
| `importance.jsonl`, `results.json` | `writer` | at the end |
| `report.html` | `report.page` | last |

Every file and folder but the growing `steps.jsonl` appears under its name when it is complete. Does not belong here: what
a figure means (`evaluation`), and how it is shown (`report`).
"""
