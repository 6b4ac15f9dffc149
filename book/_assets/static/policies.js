// A GPT-2 that runs in the reader's browser: decoder, key-value cache, sampling, and a reward head.
//
// The build writes the weights of the models that it has just trained to policy-*.js: each file calls `rlhf.receive` with a
// name and base64 text of 16-bit numbers. They are scripts and not data files, since a page opened from a disk
// (file://) may load scripts but may not fetch. Everything here is plain loops over Float32Array: the models have half a
// million weights, and a token takes about a millisecond.
//
// Shapes follow PyTorch: a weight of GPT-2's Conv1D is (inputs, outputs), row by row.
"use strict";

var rlhf = (() => {
  const HERE = document.currentScript.src;
  let table = null;
  const received = {};
  const loading = {};

  // ---- weights ----

  // The number that 16 bits mean: 1 sign, 5 exponent and 10 fraction bits (IEEE 754 binary16).
  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }

  function unpack(base64) {
    const text = atob(base64);
    const bits = new Uint16Array(text.length / 2);
    for (let i = 0; i < bits.length; i++) bits[i] = text.charCodeAt(2 * i) | (text.charCodeAt(2 * i + 1) << 8);
    table ??= Float32Array.from({ length: 65536 }, (_, i) => half(i)); // a million look-ups cost less than a million powers
    return Float32Array.from(bits, (b) => table[b]);
  }

  // Called by a file of weights: `tensors` lists [name, shape] in the order in which the numbers stand.
  function receive(name, tensors, base64) {
    const numbers = unpack(base64);
    const found = {};
    let start = 0;
    for (const [key, shape] of tensors) {
      const size = shape.reduce((a, b) => a * b, 1);
      found[key] = numbers.subarray(start, start + size);
      start += size;
    }
    if (start !== numbers.length) throw new Error(`${name}: ${numbers.length} numbers for ${start} places`);
    received[name] = found;
  }

  // The weights of a model, fetched when they are first asked for.
  function weights(name) {
    loading[name] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = new URL(`policies/${name}.js`, HERE).href;
      script.onload = () => (received[name] ? resolve(received[name]) : reject(new Error(`${name} is not whole`)));
      script.onerror = () => {
        delete loading[name]; // so that the reader may try again
        reject(new Error(`the weights of ${name} could not be loaded`));
      };
      document.head.append(script);
    });
    return loading[name];
  }

  // ---- arithmetic ----

  // y = x W + b for one row x.
  function linear(x, weight, bias) {
    const inputs = x.length, outputs = bias.length;
    const y = Float32Array.from(bias);
    for (let i = 0; i < inputs; i++) {
      const value = x[i], row = i * outputs;
      for (let j = 0; j < outputs; j++) y[j] += value * weight[row + j];
    }
    return y;
  }

  function layerNorm(x, scale, shift, epsilon) {
    let mean = 0, variance = 0;
    for (const value of x) mean += value / x.length;
    for (const value of x) variance += (value - mean) ** 2 / x.length;
    const by = 1 / Math.sqrt(variance + epsilon);
    return x.map((value, i) => (value - mean) * by * scale[i] + shift[i]);
  }

  // The form with tanh, which GPT-2 was trained with.
  const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

  const add = (x, y) => x.map((value, i) => value + y[i]);

  // Logarithms of the probabilities that belong to logits.
  function logSoftmax(logits) {
    const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    let sum = 0;
    for (const value of logits) sum += Math.exp(value - top);
    const total = top + Math.log(sum);
    return logits.map((value) => value - total);
  }

  // ---- the model ----

  class Model {
    // `config` has layers, heads, width, context and epsilon.
    constructor(config, tensors) {
      this.config = config;
      this.tensors = tensors;
    }

    // What the model remembers of the tokens read so far: a key and a value for each, in each layer.
    empty() {
      return Array.from({ length: this.config.layers }, () => ({ keys: [], values: [] }));
    }

    // Reads one token and returns the last hidden state, (width,). The cache grows by one place.
    read(token, cache) {
      const { config, tensors: t } = this;
      const { width, heads } = config;
      const place = cache[0].keys.length;
      if (place >= config.context) throw new RangeError(`the model reads ${config.context} tokens at most`);
      const size = width / heads;
      let x = t["wte.weight"].slice(token * width, (token + 1) * width);
      x = add(x, t["wpe.weight"].subarray(place * width, (place + 1) * width));
      cache.forEach(({ keys, values }, layer) => {
        const of = (name) => t[`h.${layer}.${name}`];
        const normed = layerNorm(x, of("ln_1.weight"), of("ln_1.bias"), config.epsilon);
        const three = linear(normed, of("attn.c_attn.weight"), of("attn.c_attn.bias"));
        const query = three.subarray(0, width);
        keys.push(three.subarray(width, 2 * width));
        values.push(three.subarray(2 * width));
        const mixed = new Float32Array(width);
        for (let head = 0; head < heads; head++) {
          const from = head * size;
          const scores = keys.map((key) => {
            let score = 0;
            for (let i = from; i < from + size; i++) score += query[i] * key[i];
            return score / Math.sqrt(size);
          });
          logSoftmax(scores).forEach((logShare, j) => {
            const share = Math.exp(logShare);
            for (let i = from; i < from + size; i++) mixed[i] += share * values[j][i];
          });
        }
        x = add(x, linear(mixed, of("attn.c_proj.weight"), of("attn.c_proj.bias")));
        const second = layerNorm(x, of("ln_2.weight"), of("ln_2.bias"), config.epsilon);
        const inner = linear(second, of("mlp.c_fc.weight"), of("mlp.c_fc.bias")).map(gelu);
        x = add(x, linear(inner, of("mlp.c_proj.weight"), of("mlp.c_proj.bias")));
      });
      return layerNorm(x, t["ln_f.weight"], t["ln_f.bias"], config.epsilon);
    }

    // Logits of the next token, (vocabulary,): the embedding's rows against the hidden state.
    logits(hidden) {
      const { width } = this.config;
      const table = this.tensors["wte.weight"];
      const out = new Float32Array(table.length / width);
      for (let token = 0; token < out.length; token++) {
        let sum = 0;
        for (let i = 0, at = token * width; i < width; i++, at++) sum += hidden[i] * table[at];
        out[token] = sum;
      }
      return out;
    }

    // A reward model's number for what has been read: its head on the hidden state.
    score(hidden) {
      let sum = this.tensors["head.bias"][0];
      for (let i = 0; i < hidden.length; i++) sum += hidden[i] * this.tensors["head.weight"][i];
      return sum;
    }
  }

  // The same places, so that a branch can grow without the trunk: keys and values are never changed, only added.
  const branch = (cache) => cache.map(({ keys, values }) => ({ keys: [...keys], values: [...values] }));

  // ---- words ----

  class Vocabulary {
    constructor(words, special) {
      this.words = words;
      this.ids = new Map(words.map((word, id) => [word, id]));
      Object.assign(this, special); // pad, eos, unk
      this.hidden = new Set(Object.values(special));
    }

    // Words as typed: small letters, punctuation apart, as the language writes them.
    split(text) {
      return text.toLowerCase().replace(/[’']/g, "'").replace(/([.,!?;:])/g, " $1 ").split(/\s+/).filter(Boolean);
    }

    encode(text) {
      return this.split(text).map((word) => this.find(word) ?? this.unk);
    }

    // Those words of a text that the models have never seen.
    unknown(text) {
      return [...new Set(this.split(text).filter((word) => this.find(word) === undefined))];
    }

    find(word) {
      const id = this.ids.get(word);
      return this.hidden.has(id) ? undefined : id;
    }

    decode(ids) {
      return ids.map((id) => this.words[id]).join(" ");
    }
  }

  // ---- chance ----

  // Random numbers in [0, 1) that a seed fixes (mulberry32): the same dice for every position of the slider.
  function dice(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  // The token at which the summed probabilities pass a number in [0, 1).
  function draw(logprobs, at) {
    let sum = 0, last = 0;
    for (let token = 0; token < logprobs.length; token++) {
      const share = Math.exp(logprobs[token]);
      if (share > 0) last = token;
      sum += share;
      if (at < sum) return token;
    }
    return last; // rounding left the sum a little below 1
  }

  return { receive, weights, half, unpack, linear, layerNorm, gelu, logSoftmax, Model, branch, Vocabulary, dice, draw };
})();
