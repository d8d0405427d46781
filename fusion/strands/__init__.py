"""One frozen model: loaded, read layer by layer, merged.

A strand is anything that offers a braid what `Strand` does; one with an adapter is a
`Strand` on a twin of its base. A new kind, such as a model in another engine, or served
elsewhere, is a file of this folder and a row in the tests of conformance.

Every strand has

- ``name``, ``number``, ``source``: what recipes call it, what tells it from others of a
  process, where it comes from, as `Pool` takes it;
- ``n_layers``, ``width``, ``vocab_size``, ``positions``, ``device``, ``dtype``;
- ``tokens``, a `TokenBytes`: what its tokens write, and how it reads a text;
- ``turn``: above how many tokens it reads a text with other positions;
- ``ends``: which tokens end a text;
- ``run(input_ids, taps=..., cache=...)``: states after the layers that are asked for,
  with keys and values in a `DynamicCache` from which the last tokens can be taken back;
- ``reads_trees`` and ``tree_mask``: whether branches of a text can be run at once, and
  how; without, branches are run one after the other;
- ``memory``, ``move`` and ``moves``: bytes of weights, how they are moved, and which
  models move together;
- ``fingerprint``, ``content``, ``stamp``: by which saved fusers and stored states know
  their strand again.

A donor of which distributions are mixed also has ``logits(states)``. An anchor has
that too. Its ``run`` takes ``edits`` of its layers, a mask, positions and the
``options`` that it ``takes``; it says how padding counts (``window`` and
``counts_columns``), and has a ``tokenizer`` and a ``model``, whose device and
generation configuration are the braid's.
"""
