/* A turn of a peer: frames are cut where they arrived and heard one by one, in order.
 *
 * Frames of other types, and those that are declined, go to the stream's `take`, and what stands behind them is
 * heard here again, unless the stream cannot go on. */
#include "lane.h"

/* Cuts the frame at `at`. 1: it is whole; 0: not all of it is there; -1: FrameReader has to look. */
static int
cut(const uint8_t *at, const uint8_t *end, Frame *frame)
{
    if (end - at < FRAME_HEAD_BYTES)
        return 0;
    uint64_t size = number_from(at, 4);
    if (size > FRAME_BYTES_MAX)
        return -1;
    if ((uint64_t)(end - at) - FRAME_HEAD_BYTES < size)
        return 0;
    *frame = (Frame){at[4], at + FRAME_HEAD_BYTES, at + FRAME_HEAD_BYTES + size, at};
    return 1;
}

/* Whether what this turn writes leaves room for what the next frame is answered with. */
static int
has_room(FrameTurn *turn)
{
    return number_at(turn->stream, STREAM, STREAM_QUEUED_BYTES) + (int64_t)turn->output.size <= PEER_OUTPUT_BYTES;
}

static int
goes_on(PyObject *stream)
{
    return is_true_at(stream, STREAM, STREAM_IS_OPEN) && !is_true_at(stream, STREAM, STREAM_IS_PAUSED)
           && !is_true_at(stream, FRAMES, FRAMES_IS_SPECIAL);
}

static int
hears(FrameTurn *turn, const Frame *frame)
{
    return frame->type < 32 && (turn->types >> frame->type & 1);
}

/* Hears the frame, or hands it on. Frames of other types are handed on as far as they go: a leader sends one for
 * each of its partitions. Returns where the next begins, NULL with an exception. */
static const uint8_t *
hear(FrameTurn *turn, const Frame *frame, const uint8_t *end, Outcome (*heard)(FrameTurn *, const Frame *))
{
    const uint8_t *stop = frame->end;
    Frame next;
    Outcome outcome = hears(turn, frame) ? heard(turn, frame) : DECLINED;
    if (outcome != DECLINED)
        return outcome == DONE ? stop : NULL;
    if (!hears(turn, frame))
        while (cut(stop, end, &next) == 1 && !hears(turn, &next))
            stop = next.end;
    if (output_write(&turn->output, turn->stream) < 0 || hand_on(turn->stream, frame->start, stop) < 0)
        return NULL;
    return stop;
}

static int
work(FrameTurn *turn, const uint8_t *at, const uint8_t *end, Outcome (*heard)(FrameTurn *, const Frame *))
{
    PyObject *stream = turn->stream;
    while (at < end && goes_on(stream) && has_room(turn)) {
        Frame frame;
        int whole = cut(at, end, &frame);
        if (whole == 0 && end - at <= TAIL_BYTES_MAX) {
            if (keep_tail(stream, FRAMES, FRAMES_TAIL, at, end) < 0)
                return -1;
            at = end;
        }
        if (whole <= 0)
            break;
        at = hear(turn, &frame, end, heard);
        if (at == NULL)
            return -1;
    }
    if (output_write(&turn->output, stream) < 0)
        return -1;
    return at == end || !is_true_at(stream, STREAM, STREAM_IS_OPEN) ? 0 : hand_on(stream, at, end);
}

PyObject *
frame_turn(FrameTurn *turn, PyObject *loop, Outcome (*heard)(FrameTurn *, const Frame *))
{
    Arrival arrival;
    if (!begin_turn(turn->stream, FRAMES, FRAMES_TAIL, FRAMES_IS_SPECIAL, loop, &arrival))
        return Py_XNewRef(arrival.result);
    turn->now_s = steady_s();
    turn->now_ms = number_at(loop, LOOP, LOOP_NOW_MS);
    int result = work(turn, arrival.at, arrival.end, heard);
    output_free(&turn->output);
    if (result < 0)
        return NULL;
    Py_RETURN_TRUE;
}

void
put_reply_head(char *to, uint64_t partition, uint64_t epoch, uint64_t sequence, size_t reply_bytes)
{
    put_number(to, REPLY_HEAD_BYTES + reply_bytes, 4);
    to[4] = TYPE_REPLY;
    put_number(to + 5, partition, 2);
    put_number(to + 7, epoch, 8);
    put_number(to + 15, sequence, 8);
    to[23] = 0; /* DONE */
}
