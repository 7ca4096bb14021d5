"""The Mistral-family block: config, parameters, RoPE, attention, caches, sharding. Knows no exits.

Arrays name their axes by suffixes (`h_BSD`) and in shape annotations; each letter has one meaning:

    A   query heads times head size, the outputs of `q`
    B   prompts, or sequences
    C   key/value heads times head size, the outputs of `k` and `v`
    D   model width
    E   exits
    F   MLP width
    G   query heads that share a key/value head
    H   head size
    I   inputs of any matrix
    J   the embedding and the layers, L + 1: row d is the residual stream after d layers
    K   key/value heads
    L   layers
    M   samples of a prompt and an exit (votes)
    N   rows that are learnt from or counted: examples, supervised positions
    O   outputs of any matrix
    P   chosen positions of a sequence
    Q   query heads
    R   exit rules of dynamic decoding
    S   positions of a sequence; slots of a prompt cache
    T   new tokens; slots of a lane cache
    U   probes of a sequence
    V   vocabulary
    W   tokens of a round of speculative decoding
    X   lanes of a prompt: exit (or rule, or draft depth) times sample
    Y   tokens that speculative decoding runs beside each other for a prompt: X times W
    Z   caches that lanes share: one for all, or one for the forks of a lane

Sizes that have no letter are words (`stops`, `rows`). Analyses on the host (`stats`, `probe`,
`study`) count in N, and name further axes where they use them, such as R bootstrap resamples.
"""
