import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** An array of 32-bit floats in C order, of any rank, and its .npy file. */
final class Npy {
    private static final byte[] MAGIC = {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y'};
    private static final Pattern SHAPE = Pattern.compile("'shape':\\s*\\(([^)]*)\\)");

    final long[] shape;
    final float[] values;

    Npy(long[] shape, float[] values) {
        this.shape = shape;
        this.values = values;
    }

    static Npy read(Path path) throws IOException {
        try (FileChannel file = FileChannel.open(path, StandardOpenOption.READ)) {
            ByteBuffer bytes = file.map(FileChannel.MapMode.READ_ONLY, 0, file.size());
            bytes.order(ByteOrder.LITTLE_ENDIAN);
            byte[] magic = new byte[MAGIC.length];
            bytes.get(magic);
            if (!Arrays.equals(magic, MAGIC)) {
                throw new IOException("not a .npy file: " + path.getFileName());
            }
            int major = bytes.get();
            bytes.get();
            byte[] text = new byte[major == 1 ? bytes.getShort() & 0xffff : bytes.getInt()];
            bytes.get(text);
            String header = new String(text, StandardCharsets.UTF_8);
            Matcher found = SHAPE.matcher(header);
            if (!header.contains("'<f4'") || header.contains("True") || !found.find()) {
                throw new IOException("not 32-bit floats in C order: " + header.trim());
            }
            long[] shape =
                    Arrays.stream(found.group(1).split(","))
                            .map(String::trim)
                            .filter(side -> !side.isEmpty())
                            .mapToLong(Long::parseLong)
                            .toArray();
            FloatBuffer floats = bytes.slice().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
            float[] values = new float[Math.toIntExact(Arrays.stream(shape).reduce(1, (a, b) -> a * b))];
            floats.get(values);
            return new Npy(shape, values);
        }
    }

    void write(Path path) throws IOException {
        String sides = Arrays.stream(shape).mapToObj(side -> side + ",").collect(Collectors.joining(" "));
        String header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + sides + "), }";
        int begin = MAGIC.length + 4;
        int padded = (begin + header.length() + 1 + 63) / 64 * 64;
        header = header + " ".repeat(padded - begin - header.length() - 1) + "\n";
        ByteBuffer head = ByteBuffer.allocate(padded).order(ByteOrder.LITTLE_ENDIAN);
        head.put(MAGIC).put((byte) 1).put((byte) 0).putShort((short) header.length());
        head.put(header.getBytes(StandardCharsets.US_ASCII)).flip();
        try (FileChannel file =
                FileChannel.open(path, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE)) {
            writeAll(file, head);
            ByteBuffer part = ByteBuffer.allocate(1 << 20).order(ByteOrder.LITTLE_ENDIAN);
            for (int done = 0; done < values.length; ) {
                int count = Math.min(part.capacity() / Float.BYTES, values.length - done);
                part.clear();
                part.asFloatBuffer().put(values, done, count);
                part.limit(count * Float.BYTES);
                writeAll(file, part);
                done += count;
            }
        }
    }

    private static void writeAll(FileChannel file, ByteBuffer bytes) throws IOException {
        while (bytes.hasRemaining()) {
            file.write(bytes);
        }
    }
}
