"""The recipes' optimizer: Keras' AdamW with the settings that are usual for language models."""

import keras


def adamw(
    learning_rate,
    *,
    weight_decay: float = 0.01,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-6,
    clip_norm: float | None = 1.0,
    gradient_accumulation: int = 1,
    ema: float = 0.0,
) -> keras.optimizers.AdamW:
    """Returns AdamW without weight decay on biases and normalization, with clipping by the global norm.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: decoupled weight decay, which is multiplied by the learning rate.
        beta_1: decay of the first moment.
        beta_2: decay of the second moment.
        epsilon: added to the root of the second moment; BERT uses 1e-6.
        clip_norm: largest norm of the gradient of all weights together; None for no clipping.
        gradient_accumulation: batches whose gradients are averaged for one update.
        ema: decay of an exponential moving average of the weights, which `fit` puts in their place when it ends; 0 for
            none.

    Reference: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101.
    """
    optimizer = keras.optimizers.AdamW(
        learning_rate,
        weight_decay=weight_decay,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=epsilon,
        global_clipnorm=clip_norm,
        use_ema=ema > 0,
        ema_momentum=ema or None,
        gradient_accumulation_steps=gradient_accumulation if gradient_accumulation > 1 else None,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "scale"])
    return optimizer
