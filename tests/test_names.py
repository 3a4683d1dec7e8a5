import numpy as np
import pytest

from thoughtlens.errors import OptionError
from thoughtlens.notation import edge_name, head_name, head_place, text


def test_heads_are_read_as_they_are_written():
    places = [(0, 0), (4, 5), (15, 31)]
    assert [head_name(*place) for place in places] == ["L0H0", "L4H5", "L15H31"]
    assert [head_place(head_name(*place)) for place in places] == places


@pytest.mark.parametrize("name", ["L4", "4h5", "L4H5 ", "L4H5H6", "LxHy", ""])
def test_other_names_are_no_heads(name):
    with pytest.raises(OptionError, match="expected one such as L4H5"):
        head_place(name)


def test_an_edge_is_named_by_query_and_key():
    assert edge_name("answer", "z6") == "answer ⊣ z6"


@pytest.mark.parametrize("names", [["a", "bc"], iter("abc"), {"a": 1}, np.array([["a", "b"], ["c", ""]]), [], range(2)])
def test_text_is_of_any_length(names):
    found = text(names)
    assert found.dtype == np.dtypes.StringDType()
    assert text(found.ravel()).tolist() == found.ravel().tolist()
