import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--depth", type=int, default=4)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
for step in range(1, 9):
    loss = abs(args.lr - 3e-3) * 10 + args.depth / 100 + 1 / step + args.seed % 7 / 1000
    print(f"step {step}: val loss {loss:.4f}", flush=True)
