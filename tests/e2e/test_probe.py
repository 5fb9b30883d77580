import os
def test_x(capsys, monkeypatch):
    monkeypatch.chdir('/tmp/w/e2e')
    from deleatur.cli import main
    import shutil
    shutil.rmtree('probe', ignore_errors=True)
    main("forget --model m32 --forget world/forget.jsonl --retain world/retain.jsonl --train.epochs 2 --out probe --json".split())
    main("evaluate probe".split())
