"""A small OpenAI-compatible server over a real model, run as a process of its own: python openai_server.py FOLDER.

It prints its port. The model's name asks for what may go wrong: `bare` has no log-probabilities, `broken` and `html`
answer what is no answer, `locked` admits one key alone; `strict` rejects fields that OpenAI's own API does not know,
`stricter` log-probabilities too. $SEEN is a file that gets a line a request.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
TOKENIZER = AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
MODEL = AutoModelForCausalLM.from_pretrained(sys.argv[1], local_files_only=True).eval()
LOCK = threading.Lock()
NAMES = ("tiny", "bare", "broken", "html", "locked", "strict", "stricter")
KNOWN = {"model", "messages", "max_tokens", "temperature", "logprobs", "top_logprobs", "top_p", "seed", "stop"}


@torch.inference_mode()
def chat(body: dict) -> dict:
    ids = TOKENIZER.apply_chat_template(
        body["messages"],
        add_generation_prompt=body.get("add_generation_prompt", True),
        continue_final_message=body.get("continue_final_message", False),
        return_tensors="pt",
        return_dict=True,
    )["input_ids"]
    limit = body["max_tokens"]
    output = MODEL.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False)
    new = output[0, ids.shape[1] :]
    stopped = len(new) < limit or int(new[-1]) in (TOKENIZER.eos_token_id,)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": TOKENIZER.decode(new, skip_special_tokens=True)},
        "finish_reason": "stop" if stopped else "length",
    }
    if body.get("logprobs") and body["model"] != "bare":
        first = MODEL(input_ids=ids).logits[0, -1].float().log_softmax(-1).topk(body.get("top_logprobs", 1))
        top = [
            {"token": TOKENIZER.decode([i]), "logprob": v, "bytes": None}
            for v, i in zip(first.values.tolist(), first.indices.tolist(), strict=True)
        ]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return {"choices": [choice], "usage": {"completion_tokens": len(new), "prompt_tokens": 0, "total_tokens": 0}}


@torch.inference_mode()
def complete(body: dict) -> dict:
    ids = torch.tensor([body["prompt"]])
    scores = MODEL(input_ids=ids).logits[0].float().log_softmax(-1)
    listed = [None, *(float(scores[k, t]) for k, t in enumerate(body["prompt"][1:]))]
    logprobs = None if body["model"] == "bare" else {"token_logprobs": listed, "tokens": [], "text_offset": []}
    return {"choices": [{"index": 0, "text": "", "finish_reason": "length", "logprobs": logprobs}]}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, status: int, content: dict | str) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in NAMES]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] == "locked" and self.headers.get("Authorization") != "Bearer right":
            self.reply(401, {"error": {"message": "wrong key"}})
            return
        with open(os.environ["SEEN"], "a", encoding="utf-8") as file:
            file.write(self.path + "\n")
        refused = sorted(set(body) - KNOWN) if body["model"].startswith("strict") else []
        if body["model"] == "stricter" and "logprobs" in body:
            refused.append("logprobs")
        if refused:
            self.reply(400, {"error": {"message": f"unrecognized request argument: {refused[0]}"}})
            return
        if body["model"] in ("broken", "html"):
            self.reply(200, {"choices": []} if body["model"] == "broken" else "<html>login</html>")
            return
        with LOCK:
            work = chat if self.path.endswith("chat/completions") else complete
            self.reply(200, {"id": "x", "object": "x", "created": 0, "model": "tiny"} | work(body))


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
