import pytest

from feature_extraction.detectors.vocabulary import check_length, read_vocabulary


@pytest.mark.parametrize(
    "content",
    [
        b"yolk\nstop sign,stopsign\nnose\n",
        b"yolk\r\nstop sign,stopsign\r\nnose\r\n",
        b"yolk\nstop sign,stopsign\nnose",
        b"\xef\xbb\xbfyolk\nstop sign, stopsign\nnose",
    ],
    ids=["plain", "crlf", "no-last-newline", "bom"],
)
def test_first_synonym_of_each_line_is_the_name(tmp_path, content):
    path = tmp_path / "objects.txt"
    path.write_bytes(content)
    assert read_vocabulary(path) == ("yolk", "stop sign", "nose")


@pytest.mark.parametrize(("content", "line"), [(b"", 1), (b"a\n\nb\n", 2), (b"a\n,b\n", 2), (b"a\n\n", 2)])
def test_a_line_without_a_name_is_an_error_that_names_it(tmp_path, content, line):
    path = tmp_path / "objects.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"objects.txt, line {line}: no label name"):
        read_vocabulary(path)


@pytest.mark.parametrize("content", [None, b"caf\xe9\n"], ids=["absent", "not-utf8"])
def test_an_unreadable_vocabulary_is_an_error(tmp_path, content):
    path = tmp_path / "objects.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        read_vocabulary(path)


def test_a_vocabulary_of_another_length_than_the_classes_is_an_error():
    assert check_length(["a", "b"], 2, "list") == ("a", "b")
    with pytest.raises(ValueError, match="list names 2 labels, but the detector has 3 foreground classes"):
        check_length(["a", "b"], 3, "list")
