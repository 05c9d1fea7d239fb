# Sourced by nq_small.sh and domains.sh: a model of two layers that one core trains in minutes.
SMALL=(--set model.layers=2 --set model.width=128 --set model.heads=4 --set model.key_value_heads=4 --set model.mlp_width=336
  --set dsr.budget=256 --set sqa.clusters=16 --set sqa.clusters_per_query=4 --set sqa.window=32
  --set rckv.latent_width=32 --set rckv.buffer_length=128 --set rckv.window=64
  --set optimizer.learning_rate=2.0e-3 --set optimizer.warmup_steps=20 --set loss.ramp=constant
  --set train.batch_size=4 --set train.threads=1 --set train.evaluate_every=100 --set train.checkpoint_every=20
  --set stages.0.steps=200)
