"""Lucene's query strings (``status:5* AND NOT user:root``), turned into the objects that `_query` compiles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tocsin.errors import ConfigError

_TOKEN = re.compile(
    r"""\s*(?:(?P<op>AND\b|OR\b|NOT\b|&&|\|\||[()!+\-](?=\S))|(?P<close>\))
    |(?P<field>(?:\\.|[^\s:()"\[\]{}!+\-\\])(?:\\.|[^\s:()"\[\]{}\\])*):(?!\s*$)
    |(?P<range>[\[{]\s*\S+\s+TO\s+\S+\s*[\]}])|(?P<phrase>"(?:\\.|[^"\\])*")(?:~\d+)?|(?P<regex>/(?:\\.|[^/\\])+/)
    |(?P<compare>[<>]=?)\s*(?P<bound>[^\s()]+)|(?P<word>(?:\\.|[^\s()"\\])+))(?:\^[\d.]+)?""",
    re.X,
)
Node = dict[str, Any]


def parse_query_string(text: str, fields: Sequence[str], every: bool, place: str) -> Node:
    """The query as bool, match, range ... objects; words without a field are sought in ``fields``."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while text[at:].strip():
        token = _TOKEN.match(text, at)
        if not token or token.end() == at:
            raise ConfigError(f"{place}: cannot be read from {text[at : at + 20]!r} on")
        at = token.end()
        if token["compare"]:
            tokens.append(("compare", token["compare"] + " " + token["bound"]))
        else:
            kind = token.lastgroup or ""
            kind = "op" if kind == "close" else kind
            tokens.append((kind, token[token.lastgroup or 0]))
    parser = _Parser(tokens, list(fields), every, place)
    tree = parser.either()
    if parser.at < len(tokens):
        raise ConfigError(f"{place}: '{tokens[parser.at][1]}' closes nothing")
    return tree


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]], fields: list[str], every: bool, place: str) -> None:
        self.tokens, self.fields, self.every, self.place, self.at = tokens, fields, every, place, 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        self.at += 1
        return self.tokens[self.at - 1]

    def either(self) -> Node:
        parts = [self.both()]
        while self.peek() in (("op", "OR"), ("op", "||")):
            self.take()
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else {"bool": {"should": parts, "minimum_should_match": 1}}

    def both(self) -> Node:
        """Clauses side by side: joined by AND, or, without a word between, by the default operator."""
        must: list[Node] = []
        loose: list[Node] = []
        excluded: list[Node] = []
        joined = False
        while self.peek()[0] != "end" and self.peek() not in (("op", ")"), ("op", "OR"), ("op", "||")):
            if self.peek() in (("op", "AND"), ("op", "&&")):
                self.take()
                if loose and not joined:
                    must.append(loose.pop())
                joined = True
                continue
            sign = ""
            while self.peek()[0] == "op" and self.peek()[1] in ("NOT", "!", "-", "+"):
                sign = self.take()[1]
            node = self.clause()
            if sign in ("NOT", "!", "-"):
                excluded.append(node)
            elif joined or self.every or sign == "+":
                must.append(node)
            else:
                loose.append(node)
            joined = False
        if len(must) == 1 and not loose and not excluded:
            return must[0]
        if len(loose) == 1 and not must and not excluded:
            return loose[0]
        body: Node = {"must": must, "must_not": excluded}
        if loose:
            body |= {"should": loose, "minimum_should_match": 0 if must else 1}
        return {"bool": body}

    def clause(self) -> Node:
        kind, text = self.take() if self.peek()[0] != "end" else ("end", "")
        if (kind, text) == ("op", "("):
            inner = self.either()
            if self.peek() != ("op", ")"):
                raise ConfigError(f"{self.place}: a bracket is not closed")
            self.take()
            return inner
        if kind == "field":
            outer, self.fields = self.fields, [re.sub(r"\\(.)", r"\1", text)]
            node = self.clause()
            self.fields = outer
            return node
        if kind in ("end", "op"):
            raise ConfigError(f"{self.place}: something is missing {'at the end' if kind == 'end' else f'at {text!r}'}")
        if self.fields == ["_exists_"]:
            return {"exists": {"field": text.strip('"')}}
        nodes = [_leaf(field, kind, text) for field in self.fields]
        return nodes[0] if len(nodes) == 1 else {"bool": {"should": nodes, "minimum_should_match": 1}}


def _leaf(field: str, kind: str, text: str) -> Node:
    if kind == "phrase":
        return {"match_phrase": {field: re.sub(r"\\(.)", r"\1", text[1:-1])}}
    if kind == "regex":
        return {"regexp": {field: text[1:-1]}}
    if kind == "compare":
        sign, bound = text.split(" ", 1)
        return {"range": {field: {{">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}[sign]: bound.strip('"')}}}
    if kind == "range":
        low, _, high = text[1:-1].strip().partition(" TO ")
        bounds = {"gte" if text[0] == "[" else "gt": low.strip(), "lte" if text[-1] == "]" else "lt": high.strip()}
        return {"range": {field: {sign: b.strip('"') for sign, b in bounds.items() if b != "*"}}}
    text = re.sub(r"(?<!\\)[~^][\d.]*$", "", text)
    if text == "*":
        return {"match_all": {}} if field == "*" else {"exists": {"field": field}}
    if re.search(r"(?<!\\)[*?]", text):
        return {"wildcard": {field: {"value": text, "case_insensitive": True}}}
    return {"match": {field: re.sub(r"\\(.)", r"\1", text)}}
