"""RoBERTa and T5 by hand over their own modules, with a slot after each sub-layer: what adapters must equal."""

import torch


def same(site, h, x):
    """No adapter."""
    return h


def roberta(model, inputs, after=same, finish=None):
    """Logits of a RoBERTa classifier. `after(site, h, x)` changes a sub-layer's output h, x being its residual;
    `finish(site, u, norm)` replaces norm(u), u = h + x. A site is (kind, layer)."""
    finish = finish or (lambda site, u, norm: norm(u))
    visible = inputs["attention_mask"][:, None, None, :]
    bias = torch.zeros(visible.shape, dtype=next(model.parameters()).dtype).masked_fill(visible == 0, float("-inf"))
    x = model.roberta.embeddings(input_ids=inputs["input_ids"])
    for index, layer in enumerate(model.roberta.encoder.layer):
        own, out = layer.attention.self, layer.attention.output
        h = out.dense(attend(own.query(x), own.key(x), own.value(x), own.num_attention_heads, bias, own.scaling))
        x = finish(("attention", index), after(("attention", index), h, x) + x, out.LayerNorm)
        h = layer.output.dense(layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x)))
        x = finish(("ffn", index), after(("ffn", index), h, x) + x, layer.output.LayerNorm)
    return model.classifier(x)


def t5(model, inputs, after=same):
    """Logits of a T5 generator without padding. Sites are (stack, kind, layer), kinds attention, cross and ffn."""
    memory = stack(model.encoder, inputs["input_ids"], "encoder", after, None)
    states = stack(model.decoder, inputs["decoder_input_ids"], "decoder", after, memory)
    return model.lm_head(states * (model.model_dim**-0.5 if model.config.scale_decoder_outputs else 1))


def stack(module, ids, name, after, memory):
    x, bias = module.embed_tokens(ids), None
    for index, block in enumerate(module.block):
        for part in block.layer:
            y = part.layer_norm(x)
            if hasattr(part, "SelfAttention"):
                own, kind = part.SelfAttention, "attention"
                bias = own.compute_bias(ids.shape[1], ids.shape[1]) if index == 0 else bias
                limit = torch.zeros(ids.shape[1], ids.shape[1], dtype=x.dtype)
                if name == "decoder":
                    limit += torch.full_like(limit, float("-inf")).triu(1)
                h = own.o(attend(own.q(y), own.k(y), own.v(y), own.n_heads, bias + limit, 1.0))
            elif hasattr(part, "EncDecAttention"):
                own, kind = part.EncDecAttention, "cross"
                h = own.o(attend(own.q(y), own.k(memory), own.v(memory), own.n_heads, 0.0, 1.0))
            else:
                h, kind = part.DenseReluDense(y), "ffn"
            x = x + after((name, kind, index), h, x)
    return module.final_layer_norm(x)


def attend(query, key, value, heads, bias, scale):
    query, key, value = (tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (query, key, value))
    weights = (query @ key.transpose(-1, -2) * scale + bias).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)
