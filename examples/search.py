"""Search a split's pictures by a text, with the newest finetuned run under a root.

python examples/search.py data retrieval/test "a red circle left of a blue square"
"""

import sys

from tasks.search import open_search


def main(root: str, split: str, text: str) -> None:
    search = open_search(root, images=split)
    found = search.images(text, top=5)
    for hit in found:
        print(f"{hit.score:8.3f}  {hit.path}  {hit.caption}")
    found[0].picture().save("best.jpg")

    print("captions of the best one:")
    for hit in search.captions(found[0].key, top=3):
        print(f"{hit.score:8.3f}  {hit.caption}")


if __name__ == "__main__":
    main(*sys.argv[1:])
