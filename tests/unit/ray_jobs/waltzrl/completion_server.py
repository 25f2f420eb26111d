"""A real HTTP server that samples from a model folder, in vLLM's and in SGLang's words.

It computes its own logits and draws its own tokens; it knows nothing of the trainer but the folder.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class _PatientServer(ThreadingHTTPServer):
    request_queue_size = 128  # no connection is refused, however many come at once


class CompletionServer:
    """Serves `folder` until `close`. `paths` lists the requests; `fail` may answer a status."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[str] = []
        self.fail: Any = lambda path, number: None
        self.keep_end = True
        self._lock = threading.Lock()
        self._load()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.paths.append(self.path)
                    status = outer.fail(self.path, outer.paths.count(self.path)) or 200
                    answer = outer.answer(self.path, body) if status == 200 else {}
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"" if answer is None else json.dumps(answer).encode())

            def log_message(self, *args: Any) -> None:
                pass

        self._http = _PatientServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _load(self) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(self.folder)

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            self._load()
            return {"results": [None]}
        if path == "/update_weights_from_disk":
            self.folder = Path(body["model_path"])
            self._load()
            return {"success": True, "message": "ok"}
        if path == "/v1/completions":
            assert body["model"] == str(self.folder)
            sampled = self._sample(
                body["prompt"], body["max_tokens"], body["stop_token_ids"], body["seed"]
            )
            tokens, logprobs, reason = sampled
            choice = {"token_ids": tokens, "finish_reason": reason, "text": "?"}
            return {"choices": [choice | {"logprobs": {"token_logprobs": logprobs}}]}
        if path == "/generate":
            wanted = body["sampling_params"]
            tokens, logprobs, reason = self._sample(
                body["input_ids"],
                wanted["max_new_tokens"],
                wanted["stop_token_ids"],
                len(self.paths),
            )
            listed = [[logp, token, None] for token, logp in zip(tokens, logprobs, strict=True)]
            about = {"output_token_logprobs": listed, "finish_reason": {"type": reason}}
            return {"text": "?", "meta_info": about}
        return None  # /reset_prefix_cache

    @torch.no_grad()
    def _sample(
        self, prompt: list[int], limit: int, ends: list[int], seed: int
    ) -> tuple[list[int], list[float], str]:
        generator = torch.Generator().manual_seed(seed)
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < limit:
            logits = self._model(torch.tensor([prompt + tokens])).logits[0, -1]
            logp = logits.log_softmax(0)
            token = int(torch.multinomial(logp.exp(), 1, generator=generator))
            if token in ends and not self.keep_end:
                return tokens, logprobs, "stop"
            tokens.append(token)
            logprobs.append(float(logp[token]))
            if token in ends:
                return tokens, logprobs, "stop"
        return tokens, logprobs, "length"
