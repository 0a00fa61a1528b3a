"""The live viewer: any field, rendered here and shown in a browser, while it trains or afterwards.

`views` says what is looked at, `pictures` what is seen, `pacing` what is drawn when, `turns` who has the
devices, `painter` draws, `key_frames` records flights. None of them knows a browser: `server` binds them
to viser, `guard` refuses who should not ask it, and `show` is what one calls.
"""
