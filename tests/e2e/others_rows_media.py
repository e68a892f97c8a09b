# SPDX-License-Identifier: GPL-2.0-or-later
"""Encoders, renderers, compressors and linkers, with threads (others.py says what a row is)."""

from __future__ import annotations

from others import C_FILES, Row, text

FILM = """
# needs ffmpeg
ffmpeg -loglevel error -f lavfi -i testsrc=duration=1:size=320x240:rate=10 -pix_fmt yuv420p \
	-bitexact film.y4m
"""

AV1 = FILM + """
# needs aomenc
aomenc -q --threads=1 --cpu-used=8 --limit=6 --ivf -o film.ivf film.y4m
"""

PICTURE = """
# needs ffmpeg
ffmpeg -loglevel error -f lavfi -i testsrc=size=320x240 -frames:v 1 picture.ppm
"""

SCENE = r"""
cat > scene.pov <<'END'
#version 3.7;
global_settings { assumed_gamma 1 }
camera { location <0, 2, -5> look_at 0 }
light_source { <5, 8, -6> rgb 1 }
plane { y, -1 pigment { checker rgb 1, rgb 0.2 } finish { reflection 0.2 } }
#for (N, 0, 4)
	sphere { <N - 2, 0, N / 2>, 0.6 pigment { rgb <N / 4, 0.3, 1 - N / 4> } finish { phong 1 } }
#end
END
"""

OBJECTS = C_FILES + "\nfor name in main f1 f2 f3 f4 f5 f6; do gcc -O1 -c $name.c; done\n"

LINK = ("/usr/lib/x86_64-linux-gnu/crt1.o /usr/lib/x86_64-linux-gnu/crti.o main.o f1.o f2.o f3.o"
        " f4.o f5.o f6.o -L/usr/lib/x86_64-linux-gnu -lc /usr/lib/x86_64-linux-gnu/crtn.o"
        " -dynamic-linker /lib64/ld-linux-x86-64.so.2")

MEDIA = [
    Row("x264", "$RUN x264 --quiet --no-progress --threads 4 -o film.h264 film.y4m",
        FILM, ("film.h264",), threads=4, varies="encoded .* fps.*"),
    Row("x265", "$RUN x265 --log-level none --no-progress --preset ultrafast --pools 4"
        " --no-info -o film.hevc film.y4m", FILM, ("film.hevc",), threads=4),
    Row("aom-tools", "$RUN aomenc -q --threads=4 --cpu-used=8 --tile-columns=1 --row-mt=1 --limit=6"
        " --ivf -o film.ivf film.y4m", FILM, ("film.ivf",), threads=3),
    Row("svt-av1", "$RUN SvtAv1EncApp -i film.y4m --preset 12 --lp 2 -b film.ivf > log 2>&1",
        FILM, ("film.ivf",), threads=4),
    Row("rav1e", "$RUN rav1e -q --threads 4 --speed 10 --limit 4 -o film.ivf film.y4m",
        FILM, ("film.ivf",), threads=4),
    Row("dav1d", "$RUN dav1d -q --threads 4 -i film.ivf --muxer md5 -o -", AV1, threads=4),
    Row("webp", "$RUN cwebp -quiet -mt -m 4 picture.ppm -o picture.webp",
        PICTURE, ("picture.webp",), threads=1),
    Row("libjxl-tools", "$RUN cjxl --quiet --num_threads=4 -e 3 picture.ppm picture.jxl",
        PICTURE, ("picture.jxl",), threads=4),
    Row("povray", "$RUN povray +WT4 +W160 +H120 -D +FT +Iscene.pov +Oscene.tga > log 2>&1;"
        " head -c 57600 scene.tga > pixels",
        SCENE, ("pixels",), threads=4),
    Row("pixz", "$RUN pixz -p 4 -1 < text", text(1500), threads=4),
    Row("zpaq", "$RUN zpaq add text.zpaq text -m2 -threads 4 > log 2>&1;"
        " zpaq extract text.zpaq text -to again > log 2>&1", text(1500), ("again",), threads=2),
    Row("lrzip", "$RUN lrzip -q -p 4 -n -o text.lrz text > log;"
        " lrzip -q -d -o again text.lrz > log", text(1500), ("again",)),
    Row("lld", f"$RUN ld.lld --threads=4 -o main {LINK} && {{ ./main; echo $?; }}",
        OBJECTS, ("main",), threads=3),
    Row("mold", f"$RUN mold --thread-count 4 -o main {LINK} && {{ ./main; echo $?; }}",
        OBJECTS, ("main",)),
]
