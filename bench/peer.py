"""Steps of PyTorch + PEFT: peer.py <variant>, the case as JSON on standard input. Prints one line of JSON.

Variants: eager, sdpa (float32, by attention), compile (float32, torch.compile), bf16-weights, bf16-autocast.
"""

import contextlib
import json
import resource
import sys
import time

import peft
import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model



def in_one_line(kind, error, _trace):
    """What the table can show; a failed torch.compile alone prints pages."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    print(f"{kind.__name__}: {first.strip()}", file=sys.stderr)


sys.excepthook = in_one_line
variant = sys.argv[1]
case = json.load(sys.stdin)
steps = case["steps"]
if case["threads"]:
    torch.set_num_threads(case["threads"])
torch.manual_seed(0)

values = {key: value for key, value in case["config"].items() if key not in ("architectures", "model_type")}
config = transformers.AutoConfig.for_model(case["config"]["model_type"], **values)
# Dropout off: the other side has none.
for name in list(vars(config)):
    if name.endswith(("_pdrop", "dropout", "dropout_prob")):
        setattr(config, name, 0.0)
attention = "eager" if variant == "eager" else "sdpa"
classify = case["labelling"] == "classification"
auto = transformers.AutoModelForSequenceClassification if classify else transformers.AutoModelForCausalLM
model = auto.from_config(config, attn_implementation=attention)
model.config.use_cache = False
if variant == "bf16-weights":
    model = model.to(torch.bfloat16)
model = get_peft_model(
    model,
    LoraConfig(
        r=case["rank"],
        lora_alpha=2 * case["rank"],
        target_modules=case["targets"],
        modules_to_save=case["modulesToSave"] or None,
        task_type=TaskType.SEQ_CLS if classify else TaskType.CAUSAL_LM,
        fan_in_fan_out=case["config"]["model_type"] == "gpt2",
    ),
)
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0)
forward = torch.compile(model) if variant == "compile" else model
autocast = torch.autocast("cpu", torch.bfloat16) if variant == "bf16-autocast" else contextlib.nullcontext()

model.train()
seconds, cpu = [], []
for step in range(steps + 1):
    ids = torch.randint(0, case["vocabulary"], (case["batch"], case["length"]))
    if classify:
        labels = torch.randint(0, 2, (case["batch"],))
    else:
        labels = ids.clone()
        if case["labelling"] == "instruction":
            labels[:, : case["length"] - case["answer"]] = -100
    begun, used = time.perf_counter(), time.process_time()
    with autocast:
        loss = forward(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.perf_counter() - begun)
    cpu.append(time.process_time() - used)

print(
    json.dumps(
        {
            "steps": seconds[1:],
            "cpu": cpu[1:],
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "loss": loss.item(),
            "versions": {
                "python": sys.version.split()[0],
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            },
        }
    )
)
