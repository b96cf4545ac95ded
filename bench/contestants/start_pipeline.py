"""The hub's pipeline, started anew: a model folder and a text in, probabilities out."""

import json
import sys
import time
from pathlib import Path

import torch
import transformers
from classifier import open_classifier

artifact, names, text_file, max_length = sys.argv[1:]
labels = json.loads(names)
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
model, tokenizer = open_classifier(artifact, labels)
pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device=-1)
text = Path(text_file).read_text(encoding="utf-8")
said = pipe([text], top_k=None, truncation=True, max_length=int(max_length))[0]
scores = {one["label"]: one["score"] for one in said}
print(json.dumps({"probabilities": [scores[label] for label in labels], "cpu_s": time.process_time()}), flush=True)
