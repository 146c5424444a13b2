"""When collections look through what."""

import gc

from graft.cli.garbage import USUAL, imports_aside, put_off_collections


def test_a_run_collects_as_usual_but_not_what_was_there_before() -> None:
    before = gc.get_threshold()
    try:
        put_off_collections()
        seldom = gc.get_threshold()
        with imports_aside():
            within, num_aside = gc.get_threshold(), gc.get_freeze_count()
    finally:
        gc.set_threshold(*before)
    assert all(put_off > usual for put_off, usual in zip(seldom, USUAL, strict=True))
    assert within == USUAL
    assert num_aside > 10_000
    assert gc.get_freeze_count() == 0
