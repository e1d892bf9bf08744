"""Small phantoms for tests."""

from data.phantom import Exams, Options, records
from data.record import Record, Report

SIZE = 128
SMALL = Options(size=SIZE, exams=Exams(train=6, validation=3, test=3))


def read_all(options: Options) -> list[Record]:
    return list(records(None, options, Report()))
