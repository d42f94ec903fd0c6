"""What mypy rejects: each line that ends with `wrong`, and no other."""

from cumulus.sdk import CumulusClient, gpu

client = CumulusClient()


def train(path: str, epochs: int = 3) -> float:
    return len(path) * epochs / 2


@gpu(memory=0.5)
def leased(x: int) -> str:
    return str(x)


client.remote(train)(3)  # wrong
client.remote(train)("x", epoch=3)  # wrong
client.remote(train, gpu_memory=[1])("x")  # wrong
client.remote(train, memory=1)("x")  # wrong
number: int = client.run(train, "x")  # wrong
text: str = client.remote(train)("x")  # wrong
leased("x")  # wrong
leased.submit()  # wrong
