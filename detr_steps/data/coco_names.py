"""Names of COCO's categories by id: 91 numbers, of which 80 are in use.

The official checkpoints keep the ids as labels, gaps included.
"""

_NAMES = (
    "–,person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,"
    "fire hydrant,–,stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,"
    "elephant,bear,zebra,giraffe,–,backpack,umbrella,–,–,handbag,tie,suitcase,frisbee,skis,"
    "snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
    "tennis racket,bottle,–,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,"
    "orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,–,"
    "dining table,–,–,toilet,–,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,–,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush"
)
COCO_NAMES = tuple(_NAMES.split(","))  # index = category id, – where unused
