"""Pairs, and a visitor who sends forms as a browser without a script does."""

from __future__ import annotations

import re

from starlette.testclient import TestClient

from rlhf_utils.annotation.records import Pair
from rlhf_utils.annotation.web import create_app

STAFF_CODE = "for members of staff"
FIELD = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')


def some_pairs(number, answer=None):
    return [Pair(f"prompt {answer} {i}", f" first {i}", f" second {i}", answer) for i in range(number)]


class Person:
    """A visitor of the web app, without a script."""

    def __init__(self, store, **options):
        self.client = TestClient(create_app(store, STAFF_CODE), follow_redirects=False, **options)
        self.answer = None

    def get(self, path):
        self.answer = self.client.get(path)
        return self

    def post(self, path, **fields):
        self.answer = self.client.post(path, data=fields)
        return self

    def follow(self):
        assert self.answer.status_code == 303
        return self.get(self.answer.headers["location"])

    def form(self, action):
        """The hidden fields of the page's form with an action."""
        inside = self.text.partition(f'action="{action}"')[2].partition("</form>")[0]
        return dict(FIELD.findall(inside))

    def send(self, action, **fields):
        return self.post(action, **{**self.form(action), **fields})

    @property
    def text(self):
        return self.answer.text

    @property
    def status(self):
        return self.answer.status_code

    def enter(self, code):
        self.get("/").send("/enter", code=code).follow()
        if self.status == 303:
            self.follow().send("/consent", accept="yes").follow()
        return self

    def enter_staff(self):
        return self.get("/staff").send("/staff/enter", code=STAFF_CODE).follow()
