"""The live viewer: any field, rendered by Python and shown in a browser, during training or afterwards.

`views` describes the views, `pictures` renders them, `pacing` chooses the sizes and times of images,
`turns` shares the devices with training, `painter` runs the rendering thread, and `key_frames` records
camera paths. These modules do not depend on a browser: `server` connects them to viser, `guard` refuses
foreign requests, and `show` has the functions to call.
"""
