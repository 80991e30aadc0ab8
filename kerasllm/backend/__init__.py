"""The operators that differ between JAX, PyTorch and TensorFlow: what each takes, and what it returns.

Only this package imports jax, torch or tensorflow. `KERAS_BACKEND` says which of `backend.jax`, `backend.torch` and
`backend.tensorflow` is loaded; the others are not. Each has the same modules with the same names in them, and this
file is where the names are documented. Every operator returns a result on every backend.

Tensors are the backend's own. A weight may be a Keras variable or a tensor. Floating results have the type of the
first input unless something else is said; sums, means and softmaxes are computed in float32.
"""

from importlib import import_module

from kerasllm.backend.choice import choose

name = choose()

ops, losses, training, guard, decoding, distribution, recurrent, device = (
    import_module(f"kerasllm.backend.{name}.{module}")
    for module in ("ops", "losses", "training", "guard", "decoding", "distribution", "recurrent", "device")
)

attention = ops.attention
"""attention(query, key, value, *, mask=None, is_causal=False, dropout_rate=0.0, seed=None)

Returns scaled dot-product attention of the shape of `query`.

Args:
    query, key, value: (batch, heads, queries or keys, head_dim), or without the first axis.
    mask: boolean, broadcastable to (batch, heads, queries, keys), True where attention is allowed.
    is_causal: whether a query sees no later key; the last query belongs to the last key.
    dropout_rate: share of the attention probabilities that is dropped.
    seed: of the dropout, integer (2,), as `SeedGenerator.next()` gives it.

Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.1.
"""

dropout = ops.dropout
"""dropout(inputs, rate, seed)

Returns `inputs`, floating and of any shape, with a share `rate` in [0, 1) of their elements zeroed and the others
divided by 1 - rate. Which are zeroed is told by a hash of `seed`, integer (2,), as `SeedGenerator.next()` gives it
(see `backend.hashing`).

Reference: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.
"""

add_dropout = ops.add_dropout
"""add_dropout(hidden, branch, rate, seed)

Returns `hidden + dropout(branch, rate, seed)`; both are of one shape.
"""

activation = ops.activation
"""activation(inputs, name)

Returns the activation of that name: "gelu" is the exact one (erf), "gelu_tanh" its approximation by tanh, any other
name is one of `keras.activations`.

Reference: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.
"""

layer_norm = ops.layer_norm
"""layer_norm(inputs, scale, bias, epsilon)

Returns `inputs` (..., width) normalized over the last axis, times `scale` (width,), plus `bias` (width,) unless that
is None.

Reference: Ba et al. 2016, https://arxiv.org/abs/1607.06450.
"""

rms_norm = ops.rms_norm
"""rms_norm(inputs, scale, epsilon)

Returns `inputs` (..., width) over the root of their mean square along the last axis, times `scale` (width,).

Reference: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.
"""

rotate = ops.rotate
"""rotate(heads, cosine, sine)

Returns `heads` (..., length, head_dim) with each pair of coordinates (i, i + head_dim / 2) turned by the angle whose
`cosine` and `sine`, float32 and broadcastable to (..., length, head_dim / 2), are given.
"""

dense = ops.dense
"""dense(inputs, kernel, bias=None, transposed=False)

Returns `inputs @ kernel + bias`, (rows, out), of inputs (rows, in), a kernel (in, out), or (out, in) if it is
`transposed`, and a bias (out,) or None.
"""

matrix_product = ops.matrix_product
"""matrix_product(left, right)

Returns the product of two matrices, made as a compiled training step makes it.
"""

split = ops.split
"""split(inputs, sizes, axis)

Returns consecutive parts of `inputs` along an axis, `sizes` wide each.
"""

take_rows = ops.take_rows
"""take_rows(table, ids)

Returns the rows of a table (rows, width) at `ids`, int of any shape: (*ids.shape, width). An id that the table does not
have is an error, or a row of NaN. The gradient of the table is a whole table, in which the rows of an id that occurs
several times are summed in float32.
"""

take_positions = ops.take_positions
"""take_positions(hidden, positions)

Returns (batch, slots, width), of `hidden` (batch, length, width) at `positions` int32 (batch, slots).
"""

write_slice = ops.write_slice
"""write_slice(cache, value, position)

Returns `cache` (rows, capacity, width) with `value` (rows, length, width) in the columns from `position` on; the cache
may be changed in place. With `position` int32 (rows,) each row has a column of its own, and the length is 1.
"""

fill_rows = ops.fill_rows
"""fill_rows(variable, parts)

Fills a Keras variable with its rows, which `parts` gives as NumPy arrays one after another, without a second copy of
the whole.
"""

is_symbolic = ops.is_symbolic
"""is_symbolic(tensor, axis)

Returns whether the length of that axis stands for every other: it says nothing about the data to come.
"""

boundary = ops.boundary
"""boundary(hidden)

Returns `hidden`; marks where one block of a model ends and the next begins, for a backend that compiles blocks apart.
"""

cross_entropy = losses.cross_entropy
"""cross_entropy(labels, logits)

Returns the cross-entropy of each label in nats, float32 (...), of labels int32 (...) and logits (..., classes).
"""

hits = losses.hits
"""hits(labels, logits)

Returns float32 (...): 1 where the logit of the label is the highest of all, 1/n where n classes share that, else 0.
"""

linear_cross_entropy = losses.linear_cross_entropy
"""linear_cross_entropy(hidden, table, labels, weights, chunk_size, differentiable=True)

Returns the weighted sum of the cross-entropies of `labels` under the logits `hidden @ table.T`, a float32 scalar in
nats. Only a chunk of the logits exists at a time. Where a gradient is asked for, the chunk's share of it is taken
while its logits are there, so that they are made once.

Args:
    hidden, table: (tokens, hidden_dim) and (vocabulary, hidden_dim).
    labels, weights: int and float32 (tokens,); no gradient flows to the weights.
    chunk_size: tokens at a time.
    differentiable: whether gradients may be asked for.
"""

recurrence = recurrent.recurrence
"""recurrence(cell, inputs, state, input_kernel, recurrent_kernel, input_bias, recurrent_bias, mask=None, reverse=False)

Returns the outputs (length, batch, hidden_dim) of a layer of recurrent cells, and its last state.

Args:
    cell: "lstm", "gru" (with the reset gate after the product), "rnn_tanh" or "rnn_relu".
    inputs: (length, batch, in).
    state: the hidden state and, of an LSTM, the cell state, float32 (batch, hidden_dim) each; so is the last state.
    input_kernel: (gates * hidden_dim, in), in PyTorch's order of gates; see `backend.recurrent_cells`.
    recurrent_kernel: (gates * hidden_dim, hidden_dim).
    input_bias, recurrent_bias: (gates * hidden_dim,).
    mask: boolean (length, batch); where it is False, the state stays as it is, and is the output. None for all True.
    reverse: whether the last step comes first.
"""

jit_compile = training.jit_compile
"""The `jit_compile` of `Model.compile` that suits the backend where nothing else is known."""

can_compile = training.can_compile
"""can_compile()

Returns whether `jit_compile=True` is possible here.
"""

loading = training.loading
"""loading(batches)

Returns a PyDataset as what `fit` loads fastest, with the same batches in the same order; anything else as it is.
"""

make_train_function = training.make_train_function
"""make_train_function(model, make)

Calls `make()`, which is Keras' own `make_train_function`, with the model as the backend needs it.
"""

make_function = training.make_function
"""make_function(model, name, make)

Calls `make()`, Keras' own method that makes `model.test_function` or `model.predict_function`, by its `name`.
"""

compiled_step = training.compiled_step
"""compiled_step(model, train_step, *arguments)

Returns what Keras' own `train_step(*arguments)` returns, computed as `jit_compile` says.
"""

in_parts = training.in_parts
"""in_parts(function, weights, states, parts)

Returns the results of `function(weights, states, part)` for the parts of a batch, one after the other, stacked, and
the last states. The backward pass computes each part again, from the states that it began with, so that the inner
values of one part alone are in memory at a time.

Args:
    function: from (weights, states, part) to (a floating tensor, new states); it reads and changes nothing else.
    weights: a list of tensors, to which gradients flow.
    states: a list of tensors without gradients, such as the numbers of dropout's calls.
    parts: a dict of integer tensors (parts, ...).

Reference: Gao et al. 2021, https://arxiv.org/abs/2101.06983 (GradCache).
"""

whole_step = training.whole_step
"""whole_step(model, train_step, *arguments)

Returns what `train_step(*arguments)` returns, which is `compiled_step` with the model's `per_step_metrics` and
`catch_non_finite` around it. A backend may compute all of that at once.
"""

recomputed = training.recomputed
"""recomputed(function, weights, states, inputs)

Returns the result of `function(weights, states, inputs)` and the new states. The backward pass computes the function
again, instead of keeping its inner values. The function, weights and states are those of `in_parts`; `inputs` is a list
of tensors, to which gradients flow, too.
"""

evaluation_step = training.evaluation_step
"""evaluation_step(model, test_step, *arguments)

Returns what Keras' own `test_step(*arguments)` returns.
"""

per_step_metrics = training.per_step_metrics
"""per_step_metrics(model, train_step, *arguments)

Returns what `train_step(*arguments)` returns, with every metric reset first: the logs are those of this batch alone.
"""

get_random_state = training.get_random_state
"""get_random_state()

Returns the state of the backend's global random generators as bytes, or None where it has none.
"""

set_random_state = training.set_random_state
"""set_random_state(state)

Restores what `get_random_state` returned; None, from another backend, changes nothing.
"""

version = training.version
"""version()

Returns the version of the backend.
"""

libraries = training.libraries
"""libraries()

Returns the names of the packages beside the backend that a training step computes with.
"""

check_saved_model = training.check_saved_model
"""check_saved_model(path, inputs)

Runs a SavedModel on NumPy arrays by name.

Raises:
    RuntimeError: the TensorFlow that is installed cannot run it.
"""

guarded_step = guard.guarded_step
"""guarded_step(model, train_step, *arguments)

Returns what `train_step(*arguments)` returns, with `gradient_norm` in the logs, before clipping. Unless loss and
gradients are finite the norm is not, and nothing but the count of steps changes. With gradient accumulation such a
batch counts as one without gradient.
"""

# The module `decoding` is used by its name. Its operators:
"""compiled(function)

Returns the function of (nested) tensors and whole numbers as a program without gradients, made once for each shape.

repeated(step, finished)

Returns a loop over `step` as a program, made once for each shape: a function of (weights, inputs, state, count) that
takes at most `count` steps, stops before one if the state is finished, and returns the last state. The state that it
is given is used up.

`step` leads from (weights, inputs, state) to the next state, of the same shapes, `finished` from a state to a boolean
scalar.

made_once(function)

Returns `function`, from a list of tensors to another; where tensors never change, its result is kept as long as those
of the last call live.

turned(kernel)

Returns a kernel (in, out) as programs are best given it: itself or its transpose. Turned again, it is the kernel.

cache_type(compute_type)

Returns the name of the type of cached keys and values in a model that computes in `compute_type`.

scores(hidden, table)

Returns `hidden @ table.T`, (rows, vocabulary), of (rows, hidden_dim) and (vocabulary, hidden_dim).

argmax(logits)

Returns the first of the largest of each row, int32 (rows,), of (rows, vocabulary).
"""

join = distribution.join
"""join()

Connects this process with the others of its run, if `kerasllm.processes.place` says that there are others; a second
call does nothing. It comes before the first tensor is made. Returns the number of this process and their count.

Raises:
    InputError: the processes cannot be connected, or this backend has no runs of several.
"""

device_count = distribution.device_count
"""device_count()

Returns the number of devices that a run may take, over all processes.
"""

distribute = distribution.distribute
"""distribute(sizes, rules)

Places the weights, optimizers and batches of models that are made from now on, on all devices.

Args:
    sizes: of the axes replica, fsdp and tensor; their product is `device_count()`. The first two divide the rows.
    rules: pairs of a regular expression for the whole path of a weight, and for each of its axes "fsdp", "tensor" or
        None. An axis that the devices do not divide, and a weight that no rule names, is whole on every device.
"""

divide = distribution.divide
"""divide(model)

Divides the weights of a compiled model and its optimizer's state among the devices that `distribute` was told of, where
Keras has not placed them when they were made. A second call does nothing, but for another optimizer.

Raises:
    InputError: the optimizer is none of which each process can update a part, or has a state already.
"""

differentiated = distribution.differentiated
"""differentiated(variables)

Returns the variables to whose values gradients flow: of divided ones, which `stateless` gathers, those of the parts.
"""

reading = distribution.reading
"""reading(model)

Returns a context in which the weights of a divided model are read as those of any other. All processes must read the
same weights in the same order.
"""

stateless = distribution.stateless
"""stateless(values)

Returns a `keras.StatelessScope` of pairs of a variable and its value, in which divided weights can be read, too.
"""

shape = distribution.shape
"""shape(variable)

Returns the shape of a variable's values, as `whole` gives them.
"""

assign = distribution.assign
"""assign(variable, values)

Gives a variable, which may be divided, its values: a NumPy array, which all processes have.
"""

gather = distribution.gather
"""gather(values)

Returns a NumPy array (processes, ...) of what each process gives, an array of one shape and type. All must call it.
"""

whole = distribution.whole
"""whole(value)

Returns a variable's values as a NumPy array. Where devices of other processes hold a part, all processes must call it.
"""

pieces = distribution.pieces
"""pieces(variable)

Returns what this process is to save of a variable's values: pairs of a place and a function that gives the array there.
A place is a list of (begin, end), for each axis, or one of the elements in their order. Together the processes have all
places once. None for a variable that `whole` gives without copying it from process to process, or that all rows share.
"""

share = distribution.share
"""share()

Returns (part, parts, multiple): which of how many equal parts of each batch's rows this process delivers, and what
their number must be a multiple of; (0, 1, 1) where nothing is divided.
"""

sums_gradients = distribution.sums_gradients
"""Whether the losses of the processes' own rows are added up, so that weights must be divided by their sum before."""

total_weight = distribution.total_weight
"""total_weight(weight)

Returns the sum of a batch's weights over all processes, of that over this one's rows, in a step that adds gradients up.
"""

rows_of_all = distribution.rows_of_all
"""rows_of_all(values)

Returns the rows (processes * rows, ...) of all processes, of those of this one (rows, ...), through which gradients
flow: to the rows of this process from the losses of all. Where a batch is whole in every process, it comes back.
"""

reduced_step = distribution.reduced_step
"""reduced_step(model, train_step, *arguments)

Returns what `train_step(*arguments)` returns, with loss, gradients and metrics of the rows of all processes.
"""

whole_batch = distribution.whole_batch
"""whole_batch(data, is_placed=False)

Returns a context that gives, of a batch that each process has whole, what this process is to hand to Keras. With
`is_placed` the arrays of `data` lie on the devices already, as Keras does not bring them there to predict.
"""

everywhere = distribution.everywhere
"""everywhere(outputs)

Returns the outputs of a compiled function so that each process can read them.
"""

memory_limit = device.memory_limit
"""memory_limit()

Returns the bytes that a training may have of each accelerator or of the machine's memory: free ones and its own.
It raises InputError if the system does not tell.
"""

memory_in_use = device.memory_in_use
"""memory_in_use()

Returns the bytes that this process has of that memory, without garbage.
"""

peak_memory = device.peak_memory
"""peak_memory(function)

Calls `function` and returns the most bytes that the process had of that memory meanwhile; on a GPU of JAX, ever.
"""

allow_tf32 = device.allow_tf32
"""allow_tf32(allowed)

Sets whether a GPU may round factors of float32 products to ten bits; returns whether there is one that does so.
"""

make_deterministic = device.make_deterministic
"""make_deterministic()

Chooses kernels that give the same bits each time, for the rest of the process. It comes before the first tensor, and
raises InputError if it comes too late.
"""
