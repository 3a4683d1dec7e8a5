from thoughtlens.names import orders_in, step_label


def test_orders_are_read_back_in_the_order_of_their_steps():
    steps = {
        name: [step_label(name, k) for k in range(1, 13)] for name in ("attention", "random order 3", "a · first 2")
    }
    shuffled = [label for labels in steps.values() for label in reversed(labels)]
    assert orders_in(["none", "L4H5", *shuffled]) == steps


def test_an_order_that_lacks_a_step_is_no_order():
    assert orders_in([step_label("attention", 1), step_label("attention", 3)]) == {}
