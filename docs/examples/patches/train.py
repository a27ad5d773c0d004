"""Train a small GPT on bytes of text and print its validation loss: the project of docs/patches.md.

It is plain on purpose. The patches beside it add what the field has learned since GPT-2.
"""

import argparse
import json
from pydoc_data.topics import topics  # 700 kB of English that come with Python

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY, WIDTH, HEADS, DEPTH = 128, 64, 4, 2
CONTEXT, BATCH = 64, 16

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=150)
args = parser.parse_args()

torch.manual_seed(args.seed)
torch.set_num_threads(1)
text = torch.frombuffer(bytearray("".join(topics.values()).encode("ascii", "replace")), dtype=torch.uint8).long()
training, held_out = text[:-20_000], text[-20_000:]


class Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        # more of the attention
        pass

    def forward(self, x, tokens):
        batch, length, _ = x.shape
        shape = (batch, length, HEADS, WIDTH // HEADS)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(x).split(WIDTH, dim=2))
        # queries and keys
        scale = None
        # positions
        mask = None
        # values
        causal = mask is None
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)
        return self.out(y.transpose(1, 2).reshape(batch, length, WIDTH))


class Block(nn.Module):
    """Attention and a feed-forward part, each after a norm and around it a residual."""

    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        # norms
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        # the end of the block's parts

    def forward(self, x, tokens):
        x = x + self.attention(self.norms[0](x), tokens)
        hidden = self.up(self.norms[1](x))
        # activation
        hidden = F.gelu(hidden)
        # the end of the block
        return x + self.down(hidden)


class Model(nn.Module):
    """A GPT: logits of the next token at every position."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        # more embeddings
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        # output
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        # initial values
        for weights in self.parameters():
            if weights.ndim == 2:
                nn.init.normal_(weights, std=0.02)

    def forward(self, tokens):
        x = self.tokens(tokens)
        # where each token is
        x = x + self.positions.weight[: tokens.shape[1]]
        # what was before it
        for block in self.blocks:
            x = block(x, tokens)
        return self.head(self.norm(x))


def batch_at(data, starts):
    """Return tokens and the tokens after them, shape (batch, context)."""
    windows = torch.stack([data[start : start + CONTEXT + 1] for start in starts.tolist()])
    return windows[:, :-1], windows[:, 1:]


def loss_of(model, tokens, targets, **options):
    """Return the mean cross-entropy in nats."""
    return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), **options)


def learning_rate(step):
    """Return the factor of the learning rate at a step, from 0."""
    warmup = min(1.0, (step + 1) / 10)
    # the end of the training
    return warmup


model = Model()
matrices = [weights for weights in model.blocks.parameters() if weights.ndim == 2]
# optimizer
eps = 1e-8
# all weights
optimizers = [torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), eps=eps)]
# schedule
schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate) for optimizer in optimizers]
for _step in range(args.steps):
    tokens, targets = batch_at(training, torch.randint(len(training) - CONTEXT - 1, (BATCH,)))
    # loss
    loss = loss_of(model, tokens, targets)
    # gradient
    model.zero_grad()
    loss.backward()
    # update
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        schedule.step()

model.eval()
with torch.no_grad():
    tokens, targets = batch_at(held_out, torch.arange(0, len(held_out) - CONTEXT - 1, CONTEXT))
    # judge
    print(json.dumps({"val_loss": loss_of(model, tokens, targets).item()}))
