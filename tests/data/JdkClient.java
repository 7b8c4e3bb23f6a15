import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** Requests as Java's own HTTP client sends them by default: every one over http:// offers an upgrade to HTTP/2. */
public class JdkClient {
    static HttpRequest post(String url, String text, boolean expectContinue) {
        String body = "{\"model\": \"all-MiniLM-L6-v2\", \"truncate\": \"end\", \"input\": \"" + text + "\"}";
        return HttpRequest.newBuilder(URI.create(url)).header("Content-Type", "application/json")
            .expectContinue(expectContinue).POST(HttpRequest.BodyPublishers.ofString(body)).build();
    }

    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (HttpRequest request : List.of(post(args[0], "short", false), post(args[0], "polite", true),
                post(args[0], "long ".repeat(100_000), false))) {
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
        List<CompletableFuture<Integer>> many = IntStream.range(0, 20)
            .mapToObj(i -> client.sendAsync(post(args[0], "text " + i, false), HttpResponse.BodyHandlers.ofString()))
            .map(answer -> answer.thenApply(HttpResponse::statusCode)).collect(Collectors.toList());
        for (CompletableFuture<Integer> each : many) {
            System.out.println(each.get());
        }
    }
}
