"""Triton kernels of a Gemma 3 layer between its frozen matrix products, with LoRA in them.

Adding B (A x) to a frozen product in a pass of its own costs more than the product at this model's width: the result
goes to memory and back. But an element-wise kernel reads that result anyway, and made the product's input before. So
each kernel here first adds the adapter's part to what it reads, in float32 registers, and last computes A times what it
writes ("thin", one column a rank).

A program works on `ROWS` tokens of one block, looks up whose block it is, and reads that adapter's weights from the
bank's flat row. A's of a group of linear layers with one input lie above each other there, and so do their B's.

Heavy: imports torch and triton; import it only to train on a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile(pointer, rows, columns, width):
    """(rows, columns) of a matrix, in float32."""
    return tl.load(pointer + rows[:, None] * width + columns[None, :]).to(tl.float32)


@triton.jit
def _stored(pointer, rows, columns, width):
    """As it lies there."""
    return tl.load(pointer + rows[:, None] * width + columns[None, :])


@triton.jit
def _put(pointer, rows, columns, width, value):
    """Store a tile; the value as stored, in float32."""
    value = value.to(pointer.dtype.element_ty)
    tl.store(pointer + rows[:, None] * width + columns[None, :], value)
    return value


@triton.jit
def _thin(pointer, rows, width, first, RANK: tl.constexpr, RANKS: tl.constexpr):
    """(rows, RANKS): RANK columns from `first`, then zeros."""
    rank = tl.arange(0, RANKS)
    return tl.load(pointer + rows[:, None] * width + first + rank[None, :], mask=(rank < RANK)[None, :], other=0.0)


@triton.jit
def _put_thin(pointer, rows, width, first, value, RANK: tl.constexpr, RANKS: tl.constexpr):
    rank = tl.arange(0, RANKS)
    place = pointer + rows[:, None] * width + first + rank[None, :]
    tl.store(place, value.to(pointer.dtype.element_ty), mask=(rank < RANK)[None, :])


@triton.jit
def _add_thin(pointer, rows, width, first, value, RANK: tl.constexpr, RANKS: tl.constexpr):
    """Several programs add their shares, to zeros in float32."""
    rank = tl.arange(0, RANKS)
    place = pointer + rows[:, None] * width + first + rank[None, :]
    tl.atomic_add(place, value, mask=(rank < RANK)[None, :], sem="relaxed")


@triton.jit
def _a(pointer, columns, width, RANK: tl.constexpr, RANKS: tl.constexpr):
    """(RANKS, columns) of A."""
    rank = tl.arange(0, RANKS)
    return tl.load(pointer + rank[:, None] * width + columns[None, :], mask=(rank < RANK)[:, None], other=0.0)


@triton.jit
def _b(pointer, outputs, RANK: tl.constexpr, RANKS: tl.constexpr):
    """(outputs, RANKS) of B."""
    rank = tl.arange(0, RANKS)
    return tl.load(pointer + outputs[:, None] * RANK + rank[None, :], mask=(rank < RANK)[None, :], other=0.0)


@triton.jit
def _product(x, y):
    """Of a tile and one of weights or of the same type; thin sums may come in float32."""
    return tl.dot(x.to(y.dtype), y, input_precision="ieee")


@triton.jit
def _adapted(part, outputs, thin, b, scale, RANK: tl.constexpr, RANKS: tl.constexpr):
    """A tile of a linear layer's result: the frozen part, and the adapter's."""
    return part.to(tl.float32) + scale * _product(thin, tl.trans(_b(b, outputs, RANK, RANKS)))


@triton.jit
def _weight(pointer, columns):
    """Of a norm; it counts from 1."""
    return 1.0 + tl.load(pointer + columns).to(tl.float32)[None, :]


@triton.jit
def _adapter(values, stride, scales, slots, first_row, BLOCK: tl.constexpr):
    """Where the weights of the adapter of a row begin, and its scale."""
    slot = tl.load(slots + first_row // BLOCK)
    return values + slot.to(tl.int64) * stride, tl.load(scales + slot)


@triton.jit
def shrink(
    x, values, stride, scales, slots, a_offset, thin,
    WIDTH: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Thin = A x."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    adapter, _ = _adapter(values, stride, scales, slots, tl.program_id(0) * ROWS, BLOCK)
    total = tl.zeros((ROWS, RANKS), tl.float32)
    for start in range(0, WIDTH, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        a = _a(adapter + a_offset, columns, WIDTH, RANK, RANKS)
        total += _product(_stored(x, rows, columns, WIDTH), tl.trans(a))
    _put_thin(thin, rows, RANK, 0, total, RANK, RANKS)


@triton.jit
def expand(
    of_x, of_thin, values, stride, scales, slots, a_offset,
    WIDTH: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of x gets its part through A, in place."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    adapter, _ = _adapter(values, stride, scales, slots, tl.program_id(0) * ROWS, BLOCK)
    dt = _thin(of_thin, rows, RANK, 0, RANK, RANKS)
    found = _tile(of_x, rows, columns, WIDTH)
    _put(of_x, rows, columns, WIDTH, found + _product(dt, _a(adapter + a_offset, columns, WIDTH, RANK, RANKS)))


@triton.jit
def _tiles(pointer, rows, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """All columns of some rows, a tuple of tiles as stored; no load waits, so all are under way at once."""
    found = ()
    for start in tl.static_range(0, WIDTH, COLUMNS):
        found = found + (_stored(pointer, rows, start + tl.arange(0, COLUMNS), WIDTH),)
    return found


@triton.jit
def join(
    x, part, thin, after, before, values, stride, scales, slots, b_offset, a_offset, out, normed, thin_next,
    EPSILON: tl.constexpr, WIDTH: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr,
    NEXT: tl.constexpr, NEXTS: tl.constexpr, AFTER: tl.constexpr, BEFORE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """From one sublayer to the next: out = x + norm(part + B thin); normed = norm(out); thin_next = A normed.

    Without AFTER it begins with out = x, without BEFORE it ends there. NEXT is the height of the A's. A program keeps
    its rows in registers, whole.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    adapter, scale = _adapter(values, stride, scales, slots, tl.program_id(0) * ROWS, BLOCK)
    b = adapter + b_offset
    xs = _tiles(x, rows, WIDTH, COLUMNS)
    if AFTER:
        parts = _tiles(part, rows, WIDTH, COLUMNS)
        t = _thin(thin, rows, RANK, 0, RANK, RANKS)
        squares = tl.zeros((ROWS,), tl.float32)
        ys = ()
        for i in tl.static_range(WIDTH // COLUMNS):
            y = _adapted(parts[i], i * COLUMNS + tl.arange(0, COLUMNS), t, b, scale, RANK, RANKS)
            squares += tl.sum(y * y, 1)
            ys = ys + (y,)
        inverse = tl.rsqrt(squares / WIDTH + EPSILON)
        outs = ()
        for i in tl.static_range(WIDTH // COLUMNS):
            columns = i * COLUMNS + tl.arange(0, COLUMNS)
            found = xs[i].to(tl.float32) + ys[i] * inverse[:, None] * _weight(after, columns)
            outs = outs + (_put(out, rows, columns, WIDTH, found),)
    else:
        outs = xs
    if BEFORE:
        squares = tl.zeros((ROWS,), tl.float32)
        for i in tl.static_range(WIDTH // COLUMNS):
            found = outs[i].to(tl.float32)
            squares += tl.sum(found * found, 1)
        inverse = tl.rsqrt(squares / WIDTH + EPSILON)
        total = tl.zeros((ROWS, NEXTS), tl.float32)
        for i in tl.static_range(WIDTH // COLUMNS):
            columns = i * COLUMNS + tl.arange(0, COLUMNS)
            found = outs[i].to(tl.float32) * inverse[:, None] * _weight(before, columns)
            stored = _put(normed, rows, columns, WIDTH, found)
            total += _product(stored, tl.trans(_a(adapter + a_offset, columns, WIDTH, NEXT, NEXTS)))
        _put_thin(thin_next, rows, NEXT, 0, total, NEXT, NEXTS)


@triton.jit
def join_backward(
    of_out, of_normed, of_thin_next, out, part, thin, after, before, values, stride, scales, slots, b_offset, a_offset,
    of_x, of_part, of_thin,
    EPSILON: tl.constexpr, WIDTH: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr,
    NEXT: tl.constexpr, NEXTS: tl.constexpr, BEFORE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of `join`'s x, part and thin. `of_normed` is the frozen product's share alone."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    adapter, scale = _adapter(values, stride, scales, slots, tl.program_id(0) * ROWS, BLOCK)
    a, b = adapter + a_offset, adapter + b_offset
    of_outs = _tiles(of_out, rows, WIDTH, COLUMNS)
    parts = _tiles(part, rows, WIDTH, COLUMNS)
    t = _thin(thin, rows, RANK, 0, RANK, RANKS)
    founds = ()
    if BEFORE:
        outs = _tiles(out, rows, WIDTH, COLUMNS)
        of_normeds = _tiles(of_normed, rows, WIDTH, COLUMNS)
        dt = _thin(of_thin_next, rows, NEXT, 0, NEXT, NEXTS)
        squares = tl.zeros((ROWS,), tl.float32)
        mean = tl.zeros((ROWS,), tl.float32)
        throughs = ()
        for i in tl.static_range(WIDTH // COLUMNS):
            columns = i * COLUMNS + tl.arange(0, COLUMNS)
            through = of_normeds[i].to(tl.float32) + _product(dt, _a(a, columns, WIDTH, NEXT, NEXTS))
            through *= _weight(before, columns)
            found = outs[i].to(tl.float32)
            squares += tl.sum(found * found, 1)
            mean += tl.sum(through * found, 1)
            throughs = throughs + (through,)
        inverse = tl.rsqrt(squares / WIDTH + EPSILON)[:, None]
        mean = (mean / WIDTH)[:, None] * inverse * inverse
        for i in tl.static_range(WIDTH // COLUMNS):
            found = of_outs[i].to(tl.float32) + (throughs[i] - outs[i].to(tl.float32) * mean) * inverse
            founds = founds + (_put(of_x, rows, i * COLUMNS + tl.arange(0, COLUMNS), WIDTH, found),)
    else:
        for i in tl.static_range(WIDTH // COLUMNS):
            founds = founds + (_put(of_x, rows, i * COLUMNS + tl.arange(0, COLUMNS), WIDTH, of_outs[i]),)
    squares = tl.zeros((ROWS,), tl.float32)
    mean = tl.zeros((ROWS,), tl.float32)
    ys = ()
    for i in tl.static_range(WIDTH // COLUMNS):
        columns = i * COLUMNS + tl.arange(0, COLUMNS)
        y = _adapted(parts[i], columns, t, b, scale, RANK, RANKS)
        squares += tl.sum(y * y, 1)
        mean += tl.sum(founds[i].to(tl.float32) * _weight(after, columns) * y, 1)
        ys = ys + (y,)
    inverse = tl.rsqrt(squares / WIDTH + EPSILON)[:, None]
    mean = (mean / WIDTH)[:, None] * inverse * inverse
    total = tl.zeros((ROWS, RANKS), tl.float32)
    for i in tl.static_range(WIDTH // COLUMNS):
        columns = i * COLUMNS + tl.arange(0, COLUMNS)
        found = (founds[i].to(tl.float32) * _weight(after, columns) - ys[i] * mean) * inverse
        stored = _put(of_part, rows, columns, WIDTH, found)
        total += _product(stored, _b(b, columns, RANK, RANKS))
    _put_thin(of_thin, rows, RANK, 0, total * scale, RANK, RANKS)


@triton.jit
def heads(
    part, thin, query_norm, key_norm, cosine, sine, positions, values, stride, scales, slots, b_offset, out,
    EPSILON: tl.constexpr, HEADS: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr,
    RANK: tl.constexpr, RANKS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Queries, keys and values: the adapter's part, and norm and rotation of the first two. A program has one head."""
    WIDTH: tl.constexpr = (HEADS + 2 * KEYS) * 2 * HALF
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1)
    module = (head >= HEADS).to(tl.int32) + (head >= HEADS + KEYS).to(tl.int32)
    adapter, scale = _adapter(values, stride, scales, slots, tl.program_id(0) * ROWS, BLOCK)
    t = _thin(thin, rows, 3 * RANK, module * RANK, RANK, RANKS)
    place = tl.arange(0, HALF)
    low = head * 2 * HALF + place
    b = adapter + b_offset
    y1 = _adapted(_tile(part, rows, low, WIDTH), low, t, b, scale, RANK, RANKS)
    y2 = _adapted(_tile(part, rows, low + HALF, WIDTH), low + HALF, t, b, scale, RANK, RANKS)
    if head < HEADS + KEYS:
        weight = query_norm
        if head >= HEADS:
            weight = key_norm
        inverse = tl.rsqrt((tl.sum(y1 * y1, 1) + tl.sum(y2 * y2, 1)) / (2 * HALF) + EPSILON)[:, None]
        n1 = y1 * inverse * _weight(weight, place)
        n2 = y2 * inverse * _weight(weight, place + HALF)
        at = tl.load(positions + rows)
        cos, sin = _tile(cosine, at, place, 2 * HALF), _tile(sine, at, place, 2 * HALF)
        y1 = n1 * cos - n2 * sin
        y2 = n2 * cos + n1 * sin
    _put(out, rows, low, WIDTH, y1)
    _put(out, rows, low + HALF, WIDTH, y2)


@triton.jit
def heads_backward(
    of_query, of_key, of_value,
    part, thin, query_norm, key_norm, cosine, sine, positions, values, stride, scales, slots, b_offset,
    of_part, of_thin,
    EPSILON: tl.constexpr, HEADS: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr,
    RANK: tl.constexpr, RANKS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of `heads`'s part and thin, the latter added to `of_thin`. A program has one head.

    Keys and values have a gradient from every head that reads them.
    """
    WIDTH: tl.constexpr = (HEADS + 2 * KEYS) * 2 * HALF
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1)
    module = (head >= HEADS).to(tl.int32) + (head >= HEADS + KEYS).to(tl.int32)
    adapter, scale = _adapter(values, stride, scales, slots, tl.program_id(0) * ROWS, BLOCK)
    place = tl.arange(0, HALF)
    low = head * 2 * HALF + place
    b = adapter + b_offset
    source = of_query
    weight = query_norm
    first = head
    count = 1
    if module > 0:
        source = of_key
        weight = key_norm
        first = (head - HEADS) * (HEADS // KEYS)
        count = HEADS // KEYS
    if module > 1:
        source = of_value
        first = (head - HEADS - KEYS) * (HEADS // KEYS)
    d1 = tl.zeros((ROWS, HALF), tl.float32)
    d2 = tl.zeros((ROWS, HALF), tl.float32)
    for reader in range(first, first + count):
        d1 += _tile(source, rows, reader * 2 * HALF + place, HEADS * 2 * HALF)
        d2 += _tile(source, rows, reader * 2 * HALF + place + HALF, HEADS * 2 * HALF)
    if module < 2:
        t = _thin(thin, rows, 3 * RANK, module * RANK, RANK, RANKS)
        y1 = _adapted(_tile(part, rows, low, WIDTH), low, t, b, scale, RANK, RANKS)
        y2 = _adapted(_tile(part, rows, low + HALF, WIDTH), low + HALF, t, b, scale, RANK, RANKS)
        at = tl.load(positions + rows)
        cos, sin = _tile(cosine, at, place, 2 * HALF), _tile(sine, at, place, 2 * HALF)
        n1 = (d1 * cos + d2 * sin) * _weight(weight, place)
        n2 = (d2 * cos - d1 * sin) * _weight(weight, place + HALF)
        inverse = tl.rsqrt((tl.sum(y1 * y1, 1) + tl.sum(y2 * y2, 1)) / (2 * HALF) + EPSILON)
        mean = ((tl.sum(n1 * y1, 1) + tl.sum(n2 * y2, 1)) / (2 * HALF) * inverse * inverse)[:, None]
        d1 = (n1 - y1 * mean) * inverse[:, None]
        d2 = (n2 - y2 * mean) * inverse[:, None]
    total = _product(_put(of_part, rows, low, WIDTH, d1), _b(b, low, RANK, RANKS))
    total += _product(_put(of_part, rows, low + HALF, WIDTH, d2), _b(b, low + HALF, RANK, RANKS))
    _add_thin(of_thin, rows, 3 * RANK, module * RANK, total * scale, RANK, RANKS)


@triton.jit
def _gate(gate):
    """Of GELU's tanh form, x gate: the gate, and the derivative of the product."""
    half = tl.sigmoid(gate * (1.5957691216057308 + 0.07135481282553025 * gate * gate))
    return half, half + gate * half * (1.0 - half) * (1.5957691216057308 + 0.21406443847459074 * gate * gate)


@triton.jit
def gelu(
    part, thin, values, stride, scales, slots, b_offset, a_offset, out, thin_next,
    WIDTH: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Activate: out is gate times up after GELU of gate, both in part + B thin; adds A out to thin_next.

    A program has SPAN columns, and so a share of the sums of A out.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    adapter, scale = _adapter(values, stride, scales, slots, tl.program_id(0) * ROWS, BLOCK)
    b = adapter + b_offset
    t1 = _thin(thin, rows, 2 * RANK, 0, RANK, RANKS)
    t2 = _thin(thin, rows, 2 * RANK, RANK, RANK, RANKS)
    total = tl.zeros((ROWS, RANKS), tl.float32)
    for start in range(0, SPAN, COLUMNS):
        columns = tl.program_id(1) * SPAN + start + tl.arange(0, COLUMNS)
        gate = _adapted(_tile(part, rows, columns, 2 * WIDTH), columns, t1, b, scale, RANK, RANKS)
        up = _adapted(_tile(part, rows, columns + WIDTH, 2 * WIDTH), columns + WIDTH, t2, b, scale, RANK, RANKS)
        half, _ = _gate(gate)
        stored = _put(out, rows, columns, WIDTH, gate * half * up)
        total += _product(stored, tl.trans(_a(adapter + a_offset, columns, WIDTH, RANK, RANKS)))
    _add_thin(thin_next, rows, RANK, 0, total, RANK, RANKS)


@triton.jit
def gelu_backward(
    of_out, of_thin_next, part, thin, values, stride, scales, slots, b_offset, a_offset, of_part, of_thin,
    WIDTH: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Gradients of `gelu`'s part and thin, the latter added to `of_thin`.

    `of_out` is the frozen product's share alone.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    adapter, scale = _adapter(values, stride, scales, slots, tl.program_id(0) * ROWS, BLOCK)
    a, b = adapter + a_offset, adapter + b_offset
    t1 = _thin(thin, rows, 2 * RANK, 0, RANK, RANKS)
    t2 = _thin(thin, rows, 2 * RANK, RANK, RANK, RANKS)
    dt = _thin(of_thin_next, rows, RANK, 0, RANK, RANKS)
    total1 = tl.zeros((ROWS, RANKS), tl.float32)
    total2 = tl.zeros((ROWS, RANKS), tl.float32)
    for start in range(0, SPAN, COLUMNS):
        columns = tl.program_id(1) * SPAN + start + tl.arange(0, COLUMNS)
        gate = _adapted(_tile(part, rows, columns, 2 * WIDTH), columns, t1, b, scale, RANK, RANKS)
        up = _adapted(_tile(part, rows, columns + WIDTH, 2 * WIDTH), columns + WIDTH, t2, b, scale, RANK, RANKS)
        found = _tile(of_out, rows, columns, WIDTH) + _product(dt, _a(a, columns, WIDTH, RANK, RANKS))
        half, slope = _gate(gate)
        of_gate = _put(of_part, rows, columns, 2 * WIDTH, found * up * slope)
        of_up = _put(of_part, rows, columns + WIDTH, 2 * WIDTH, found * gate * half)
        total1 += _product(of_gate, _b(b, columns, RANK, RANKS))
        total2 += _product(of_up, _b(b, columns + WIDTH, RANK, RANKS))
    _add_thin(of_thin, rows, 2 * RANK, 0, total1 * scale, RANK, RANKS)
    _add_thin(of_thin, rows, 2 * RANK, RANK, total2 * scale, RANK, RANKS)


@triton.jit(do_not_specialize=["blocks", "together"])
def weight_gradient(
    wide, thin, gradients, stride, scales, slots, offset, blocks, together, second, third,
    WIDTH: tl.constexpr, THIN: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, OF_B: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Adds to the gradients of A's (`wide` is their input, `thin` the gradient of its product) or of B's (reverse).

    A program has some columns of `wide`, some ranks, and `together` blocks, of which each adapter's are summed by
    themselves. Outputs from `second` and `third` are of another B, and so of other columns of `thin`.
    """
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    rank = tl.program_id(2) * RANKS + tl.arange(0, RANKS)
    source = rank
    if OF_B:
        first = tl.program_id(0) * COLUMNS
        source += ((first >= second).to(tl.int32) + (first >= third).to(tl.int32)) * RANK
        place = offset + columns[:, None] * RANK + rank[None, :]
    else:
        place = offset + rank[None, :] * WIDTH + columns[:, None]
    total = tl.zeros((COLUMNS, RANKS), tl.float32)
    begin = tl.program_id(1) * together
    end = tl.minimum(begin + together, blocks)
    for block in range(begin, end):
        for start in range(0, BLOCK, STEP):
            rows = block * BLOCK + start + tl.arange(0, STEP)
            x = tl.load(wide + rows[:, None] * WIDTH + columns[None, :])
            t = tl.load(thin + rows[:, None] * THIN + source[None, :], mask=(rank < RANK)[None, :], other=0.0)
            total += _product(tl.trans(x), t.to(x.dtype))
        slot = tl.load(slots + block)
        follows = tl.load(slots + block + 1, mask=block + 1 < end, other=-1)
        if follows != slot:
            scale = 1.0
            if OF_B:
                scale = tl.load(scales + slot)
            target = gradients + slot.to(tl.int64) * stride + place
            tl.atomic_add(target, total * scale, mask=(rank < RANK)[None, :], sem="relaxed")
            total = tl.zeros((COLUMNS, RANKS), tl.float32)
