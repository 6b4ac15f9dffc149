// How the search orders what it finds: pages whose title holds all words of the query, then sections whose title does,
// then the rest as Sphinx has it. The more of a title the query says, the higher.
"use strict";

var Scorer = (() => {
  const wordsOf = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  // A word of the query stands for a title's word that begins as it does: "policy" for "policies", "train" for "training".
  const same = (word, other) => {
    const stem = word.slice(0, Math.max(4, word.length - 2));
    return word === other || (word.length > 3 && other.startsWith(stem));
  };
  // The part of a title's words that the query says, if all words of the query are in it; otherwise 0.
  function said(query, title) {
    const words = wordsOf(title);
    if (!query.length || !query.every((word) => words.some((other) => same(word, other)))) return 0;
    return words.filter((other) => query.some((word) => same(word, other))).length / words.length;
  }
  return {
    objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
    title: 15, partialTitle: 7, term: 5, partialTerm: 2,
    score([name, title, anchor, , score]) {
      const query = wordsOf(new URLSearchParams(location.search).get("q") ?? "");
      const parts = title.split(" > ");
      const [page, section] = [said(query, parts[0]), said(query, parts.at(-1))];
      // A chapter stands before the lesson of the same title.
      if (!anchor) return page ? 1000 * page + (name.startsWith("book/") ? 100 : 0) + Math.min(score, 99) : score;
      return score + (parts.length > 1 ? 300 * section : 0);
    },
  };
})();
