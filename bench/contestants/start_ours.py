"""Regraft, started anew: an artifact and a text in, probabilities out."""

import json
import sys
import time
from pathlib import Path

import regraft

text = Path(sys.argv[2]).read_text(encoding="utf-8")
answer = regraft.load(sys.argv[1], threads=1).predict([text])[0]
print(json.dumps({"probabilities": list(answer.probabilities.values()), "cpu_s": time.process_time()}), flush=True)
