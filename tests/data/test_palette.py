from fakd.data import default_palette


def test_colours_are_distinct_stable_and_never_black():
    palette = default_palette(255)
    assert len(set(palette)) == 255
    assert (0, 0, 0) not in palette
    assert palette[:3] == default_palette(3)
    # The PASCAL VOC colour map: 1 aeroplane, 2 bicycle, 15 person.
    assert palette[0] == (128, 0, 0)
    assert palette[1] == (0, 128, 0)
    assert palette[14] == (192, 128, 128)
